"""What a hospital costs on a cluster, on paper."""
