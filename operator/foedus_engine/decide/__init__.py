"""Pure: observed state and spec in, plan out."""
