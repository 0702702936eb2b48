"""Programs that run in environments of their own, beside Foedus; they import nothing of it."""
