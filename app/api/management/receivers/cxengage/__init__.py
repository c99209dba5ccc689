"""What the OpenAPI document says of CxEngage's routes."""
