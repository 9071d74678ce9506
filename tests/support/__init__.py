"""What several tests share: small films, servers, homes and tables."""
