"""An event loop beside the notebook's own, and the interrupts that stop a call on it."""
