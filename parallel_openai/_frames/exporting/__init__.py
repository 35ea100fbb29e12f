"""Write result frames to files for other tools, fine-tuning and annotators, and load saved frames."""
