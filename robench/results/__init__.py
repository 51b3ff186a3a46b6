"""What rows mean, and the figures made of them."""
