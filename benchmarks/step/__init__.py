"""The suite `step`: what a training step costs."""
