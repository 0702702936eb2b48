"""`python -m foedus_operator.main`: the operator.

Nothing is imported but there: the process that does the accounting imports this file, too, and needs none of it.
"""

if __name__ == "__main__":
    from foedus_operator.process import main

    main()
