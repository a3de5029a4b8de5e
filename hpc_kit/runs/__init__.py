"""What a run leaves on disk: its directory, its ledger, its records, the fingerprint of the hardware."""
