"""CxEngage's resources: what tenants set up by `/1.0/tenants/…`."""
