"""Networks as pure modules: no paths, no downloads, no choice of device."""
