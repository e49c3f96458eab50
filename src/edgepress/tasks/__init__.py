"""What is learned on top of a backbone: the classification head and its fine-tuning."""
