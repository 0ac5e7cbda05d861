"""``edgedet compare``: two bundles, or two ways to run one, side by side on the same images."""
