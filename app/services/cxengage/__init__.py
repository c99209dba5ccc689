"""CxEngage's resources, a joiner: what tenants set up by `/1.0/tenants/…`. Each public function is one transaction.

Patterns and templates (what is to happen), listeners and integrations (third parties), augments (what is known beside the
events). `augmenting.py` is asked on an event's way in; all else is for the management routes.
"""
