"""The tensors of a quantized model: linears, embeddings, floats."""
