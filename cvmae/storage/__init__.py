"""Places (local or URIs), folders written whole, manifests."""
