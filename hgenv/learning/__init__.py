"""Networks, losses, metrics, and the unrolled gradient."""
