package levee.tests.orders;

import org.springframework.http.HttpStatus;
import org.springframework.kafka.core.KafkaTemplate;
import org.springframework.transaction.annotation.Transactional;
import org.springframework.web.bind.annotation.PostMapping;
import org.springframework.web.bind.annotation.RequestBody;
import org.springframework.web.bind.annotation.RequestMapping;
import org.springframework.web.bind.annotation.ResponseStatus;
import org.springframework.web.bind.annotation.RestController;
import org.springframework.web.server.ResponseStatusException;

@RestController
@RequestMapping("/orders")
public class OrderController {
    private final KafkaTemplate<String, Object> kafka;

    OrderController(KafkaTemplate<String, Object> kafka) {
        this.kafka = kafka;
    }

    /** An order and its line in the log: both or none. */
    @PostMapping
    @ResponseStatus(HttpStatus.CREATED)
    @Transactional
    public Order place(@RequestBody Order order) {
        kafka.send("orders", order.item(), order).join();
        kafka.send("order-log", order.id(), order).join();
        // Late on purpose: the broker has both records, and the transaction is rolled back.
        if (order.quantity() < 1) {
            throw new ResponseStatusException(HttpStatus.BAD_REQUEST, "at least one, please");
        }
        return order;
    }
}
