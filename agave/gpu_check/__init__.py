"""The check of a GPU: is the code right there, how fast is it, does it learn, and what will the paper cost. `agave gpu-check`."""
