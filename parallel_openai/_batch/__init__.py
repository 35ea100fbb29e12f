"""The Batch API as another way to send the same run: half the price, within a day."""
