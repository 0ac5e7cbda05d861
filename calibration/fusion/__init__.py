"""One operator of TensorRT for what deformable attention does behind its linear layer."""
