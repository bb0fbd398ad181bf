"""What a folder on disk is; no model class is known here."""
