"""Before the clock starts: building and staging data, seeding compile caches."""
