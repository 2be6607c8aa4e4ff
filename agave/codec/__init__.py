"""A lossless codec from every trained model: files whose size is the likelihood that the model reports."""
