"""The privacy ledger: mechanisms, accountants, filters, and the record of what was spent."""
