"""The GPU's way through the model: fused kernels, a planned work list for attention, static buffers and captured graphs."""
