"""Networks: pixels to features."""
