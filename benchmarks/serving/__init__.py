"""``edgedet serve`` under load, beside ``edgedet bench``. See ``__main__``."""
