"""What is done with tuned models after training: merged, averaged, scaled layer by layer."""
