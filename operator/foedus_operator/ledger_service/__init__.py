"""The ledger service: charges budgets on behalf of silos' pods, and says which start of its role a pod is."""
