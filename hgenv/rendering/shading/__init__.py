"""Light models: formulas of what has been found on a surface, differentiable wherever its silhouette stays."""
