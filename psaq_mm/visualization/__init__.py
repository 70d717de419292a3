"""Pictures of samples and detections, and tables of benchmark records."""
