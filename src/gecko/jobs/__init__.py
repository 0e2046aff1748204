"""What people want a model of their own for, beside search: themes, similar items, few-label classes, translations."""
