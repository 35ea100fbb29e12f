"""The Batch API as a lane of a run: half the price, within a day."""
