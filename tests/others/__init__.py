"""kombu's and Celery's own tests, with greenmq in kombu's place: downloaded, and run where they lie."""
