"""Learning rules, one file a family. A new rule is one file here and one row in tests/test_rules.py."""
