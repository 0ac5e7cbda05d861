"""What ``edgedet doctor`` looks at: the installation, the machine, and a bundle's networks against both."""
