"""What a frozen encoder is worth for predictions: probes on labels, beside simpler ways."""
