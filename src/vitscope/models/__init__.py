"""Libraries' models as vitscope sees them: one file per library, named after it."""
