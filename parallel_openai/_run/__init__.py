"""The walk of a request through a run: sent, judged, sent again or handed over, within a budget."""
