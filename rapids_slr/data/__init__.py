"""Images: from a folder, a .zip or the generator to batches on the training device."""
