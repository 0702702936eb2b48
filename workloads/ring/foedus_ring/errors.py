"""What the ring refuses."""


class OperandRefused(ValueError):
    """An operand has a type, a place or a shape that no product is defined for; trying again changes nothing."""
