"""Quantisation-aware fine-tuning: the float ONNX graph as a torch module, with the roundings that `render` writes."""
