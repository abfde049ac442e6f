package levee.tests.inventory;

import java.util.HashMap;
import java.util.Map;
import org.springframework.web.bind.annotation.GetMapping;
import org.springframework.web.bind.annotation.RestController;

/** How many of each item there are. An order that comes again gets the answer it got before. */
@RestController
public class Stock {
    private final Map<String, Integer> items =
            new HashMap<>(Map.of("book", 40, "lamp", 25, "desk", 10));
    private final Map<String, Boolean> answers = new HashMap<>();

    synchronized boolean reserve(Order order) {
        if (!items.containsKey(order.item())) {
            throw new IllegalArgumentException("no such item: " + order.item());
        }
        return answers.computeIfAbsent(order.id(), id -> {
            int left = items.get(order.item()) - order.quantity();
            if (left >= 0) {
                items.put(order.item(), left);
            }
            return left >= 0;
        });
    }

    @GetMapping("/stock")
    synchronized Map<String, Integer> items() {
        return Map.copyOf(items);
    }

    @GetMapping("/answers")
    synchronized Map<String, Boolean> answers() {
        return Map.copyOf(answers);
    }
}
