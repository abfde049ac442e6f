package levee.tests.inventory;

import java.util.Map;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.common.serialization.ByteArraySerializer;
import org.springframework.boot.SpringApplication;
import org.springframework.boot.autoconfigure.SpringBootApplication;
import org.springframework.boot.autoconfigure.kafka.DefaultKafkaProducerFactoryCustomizer;
import org.springframework.context.annotation.Bean;
import org.springframework.kafka.config.TopicBuilder;
import org.springframework.kafka.core.DefaultKafkaProducerFactory;
import org.springframework.kafka.core.KafkaTemplate;
import org.springframework.kafka.listener.DeadLetterPublishingRecoverer;
import org.springframework.kafka.listener.DefaultErrorHandler;
import org.springframework.kafka.support.serializer.DelegatingByTypeSerializer;
import org.springframework.kafka.support.serializer.JsonSerializer;
import org.springframework.util.backoff.FixedBackOff;

/** Keeps the stock, and answers orders. */
@SpringBootApplication
public class InventoryService {
    public static void main(String[] args) {
        SpringApplication.run(InventoryService.class, args);
    }

    @Bean
    NewTopic deadLetters() {
        return TopicBuilder.name("orders-dlt").partitions(3).replicas(1).build();
    }

    /** What fails three times goes to the dead letters, as it came. */
    @Bean
    DefaultErrorHandler errorHandler(KafkaTemplate<Object, Object> kafka) {
        return new DefaultErrorHandler(
                new DeadLetterPublishingRecoverer(kafka), new FixedBackOff(100, 2));
    }

    /** What could not be read as JSON is written as the bytes that it is. */
    @Bean
    DefaultKafkaProducerFactoryCustomizer bytesAsTheyAre() {
        return factory -> serializeByType(factory);
    }

    @SuppressWarnings("unchecked")
    private static void serializeByType(DefaultKafkaProducerFactory<?, ?> factory) {
        var byType = new DelegatingByTypeSerializer(
                Map.of(
                        byte[].class, new ByteArraySerializer(),
                        Object.class, new JsonSerializer<>()),
                true);
        ((DefaultKafkaProducerFactory<Object, Object>) factory).setValueSerializer(byType);
    }
}
