"""How the system is deployed: the image, the manifests, and what checks them without a cluster."""
