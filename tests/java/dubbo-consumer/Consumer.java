package prestop.test;

import com.google.protobuf.StringValue;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.TreeSet;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.concurrent.atomic.AtomicLong;
import org.apache.dubbo.common.URL;
import org.apache.dubbo.common.constants.CommonConstants;
import org.apache.dubbo.common.constants.RegistryConstants;
import org.apache.dubbo.config.ApplicationConfig;
import org.apache.dubbo.config.ReferenceConfig;
import org.apache.dubbo.config.RegistryConfig;
import org.apache.dubbo.config.bootstrap.DubboBootstrap;
import org.apache.dubbo.registry.NotifyListener;
import org.apache.dubbo.registry.Registry;
import org.apache.dubbo.registry.RegistryFactory;
import org.apache.dubbo.rpc.model.ApplicationModel;

/**
 * Subscribes to the providers of {@link Echo} in a registry and prints each notification, {@code providers ADDRESS..}; and
 * calls them without pause and without retries, on four threads: {@code Consumer REGISTRY_URL DIR}. From the line {@code count} on
 * standard input on it counts what is lost; {@code end} ends it, with {@code calls N lost N} and what was lost to what.
 */
public final class Consumer {
    public static void main(String[] args) throws Exception {
        String at = args[0];
        // Dubbo and Nacos keep caches in it.
        System.setProperty("user.home", args[1]);
        ApplicationConfig application = new ApplicationConfig("echo-consumer");
        application.setQosEnable(false);
        application.setLogger("slf4j");
        RegistryConfig registry = new RegistryConfig(at);
        // For registration alone: no configuration, no metadata.
        registry.setUseAsConfigCenter(false);
        registry.setUseAsMetadataCenter(false);
        ReferenceConfig<Echo> reference = new ReferenceConfig<>();
        reference.setInterface(Echo.class);
        reference.setProtocol("tri");
        reference.setRetries(0);
        reference.setTimeout(30_000);
        reference.setCheck(false);
        reference.setLoadbalance("roundrobin");
        // Providers that register by interface, as those of before Dubbo 3 do.
        reference.setParameters(Map.of("migration.step", "FORCE_INTERFACE"));
        DubboBootstrap.getInstance().application(application).registry(registry).reference(reference).start();
        listen(at);
        call(reference.get());
    }

    private static void listen(String at) {
        URL url = URL.valueOf(at);
        RegistryFactory factory = ApplicationModel.defaultModel()
                .getExtensionLoader(RegistryFactory.class)
                .getExtension(url.getProtocol());
        Registry registry = factory.getRegistry(url.setPath("org.apache.dubbo.registry.RegistryService"));
        URL subscription = new URL("consumer", "127.0.0.1", 0, Echo.class.getName(), Map.of(
                CommonConstants.INTERFACE_KEY, Echo.class.getName(),
                RegistryConstants.CATEGORY_KEY, RegistryConstants.PROVIDERS_CATEGORY));
        registry.subscribe(subscription, new NotifyListener() {
            @Override
            public void notify(List<URL> urls) {
                TreeSet<String> addresses = new TreeSet<>();
                for (URL provider : urls) {
                    // Nobody is an address of its own.
                    if (!provider.getProtocol().equals(RegistryConstants.EMPTY_PROTOCOL)) {
                        addresses.add(provider.getAddress());
                    }
                }
                say("providers " + String.join(" ", addresses));
            }
        });
    }

    private static void call(Echo echo) throws Exception {
        AtomicLong calls = new AtomicLong();
        AtomicBoolean counts = new AtomicBoolean();
        TreeMap<String, Integer> lost = new TreeMap<>();
        StringValue text = StringValue.of("you");
        Runnable caller = () -> {
            while (true) {
                boolean counted = counts.get();
                try {
                    if (!echo.echo(text).equals(text)) {
                        throw new IllegalStateException("another answer");
                    }
                    calls.incrementAndGet();
                    Thread.sleep(5);
                } catch (Exception e) {
                    if (counted) {
                        String why = String.valueOf(e.getMessage());
                        synchronized (lost) {
                            lost.merge(why.substring(0, Math.min(300, why.length())), 1, Integer::sum);
                        }
                    }
                }
            }
        };
        for (int i = 0; i < 4; i++) {
            Thread thread = new Thread(caller);
            thread.setDaemon(true);
            thread.start();
        }
        say("calling");
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in));
        for (String line; (line = in.readLine()) != null; ) {
            switch (line) {
                // Before the first provider nothing can be answered.
                case "count" -> {
                    counts.set(true);
                    say("counting");
                }
                case "end" -> {
                    synchronized (lost) {
                        int all = lost.values().stream().mapToInt(Integer::intValue).sum();
                        say("calls " + calls + " lost " + all + " " + lost);
                    }
                    Runtime.getRuntime().halt(0);
                }
                default -> throw new IllegalArgumentException(line);
            }
        }
        Runtime.getRuntime().halt(1);
    }

    private static synchronized void say(String line) {
        System.out.println(line.replace('\n', ' '));
        System.out.flush();
    }

    private Consumer() {}
}
