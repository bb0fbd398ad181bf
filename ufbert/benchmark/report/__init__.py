"""What a run found: records, JSON, tables and figures."""
