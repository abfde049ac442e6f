package levee.tests.inventory;

public record Order(String id, String item, int quantity) {}
