"""The way back out: Hugging Face layout and ONNX."""
