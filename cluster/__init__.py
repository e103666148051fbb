"""Arrays in, arrays out: k-center, K-Means, agglomerative clustering, duplicates."""
