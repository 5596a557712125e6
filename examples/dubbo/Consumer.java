import java.util.Random;
import java.util.TreeMap;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.concurrent.atomic.AtomicLong;
import org.apache.dubbo.config.ApplicationConfig;
import org.apache.dubbo.config.ReferenceConfig;
import org.apache.dubbo.config.RegistryConfig;
import org.apache.dubbo.config.bootstrap.DubboBootstrap;

/**
 * Calls without pause and without retries, on eight threads, until a line comes on standard input: {@code java Consumer
 * ZOOKEEPER}. Then it prints {@code calls N lost N} and what was lost to what.
 */
public final class Consumer {
    public static void main(String[] args) throws Exception {
        ApplicationConfig application = new ApplicationConfig("greeter-consumer");
        application.setQosEnable(false);
        application.setLogger("slf4j");
        ReferenceConfig<Greeter> reference = new ReferenceConfig<>();
        reference.setInterface(Greeter.class);
        reference.setRetries(0);
        reference.setTimeout(10_000);
        reference.setCheck(false);
        reference.setLoadbalance("roundrobin");
        DubboBootstrap.getInstance()
                .application(application)
                .registry(new RegistryConfig("zookeeper://127.0.0.1:" + args[0] + "?timeout=20000"))
                .reference(reference)
                .start();
        Greeter greeter = reference.get();
        // Both providers must have been found before it counts.
        for (int good = 0; good < 20; ) {
            try {
                greeter.greet("warm up", 0);
                good++;
            } catch (RuntimeException e) {
                Thread.sleep(100);
            }
        }
        AtomicLong calls = new AtomicLong();
        AtomicBoolean over = new AtomicBoolean();
        TreeMap<String, Integer> lost = new TreeMap<>();
        Thread[] threads = new Thread[8];
        for (int i = 0; i < threads.length; i++) {
            Random random = new Random(i);
            // One call in eight takes up to two seconds.
            threads[i] = new Thread(() -> {
                while (!over.get()) {
                    int ms = random.nextInt(8) == 0 ? random.nextInt(2_000) : random.nextInt(20);
                    calls.incrementAndGet();
                    try {
                        greeter.greet("you", ms);
                    } catch (RuntimeException e) {
                        String why = String.valueOf(e.getMessage()).split("[.,:]")[0];
                        synchronized (lost) {
                            lost.merge(why.substring(0, Math.min(60, why.length())), 1, Integer::sum);
                        }
                    }
                }
            });
            threads[i].start();
        }
        System.out.println("consumer up");
        System.in.read();
        over.set(true);
        for (Thread thread : threads) {
            thread.join();
        }
        int all = lost.values().stream().mapToInt(Integer::intValue).sum();
        System.out.println("calls " + calls + " lost " + all + " " + lost);
        Runtime.getRuntime().halt(0);
    }
}
