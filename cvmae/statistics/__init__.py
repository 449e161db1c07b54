"""What is learnt from train before training."""
