"""The Gaussian process, batched in torch: pure functions of tensors, float64, batch dimensions first."""
