import com.alibaba.nacos.NacosServerBasicApplication;
import com.alibaba.nacos.NacosServerWebApplication;
import com.alibaba.nacos.core.listener.startup.NacosStartUp;
import com.alibaba.nacos.core.listener.startup.NacosStartUpManager;
import com.alibaba.nacos.sys.env.DeploymentType;
import com.alibaba.nacos.sys.env.EnvUtil;
import java.nio.file.Path;
import java.sql.DriverManager;
import org.springframework.boot.Banner;
import org.springframework.boot.WebApplicationType;
import org.springframework.boot.builder.SpringApplicationBuilder;
import org.springframework.context.ConfigurableApplicationContext;

/**
 * Nacos without its console: PORT DIR [-Dproperty=value..]. Standalone, with everything it writes in DIR, on 127.0.0.1 alone: HTTP on PORT,
 * gRPC on PORT + 1000 and PORT + 1001, Raft on PORT - 1000. Other settings are those of
 * resources/application.properties. Ends with its standard input.
 */
public class Server {
    public static void main(String[] args) throws Exception {
        Path dir = Path.of(args[1]).toAbsolutePath();
        Child.properties(args);
        Child.endsWithItsParent(dir);
        System.setProperty("nacos.server.main.port", args[0]);
        System.setProperty("nacos.home", dir.toString());
        // Its database, and the database's log.
        System.setProperty("derby.system.home", dir.toString());
        System.setProperty("nacos.standalone", "true");
        // Before Spring has read its file.
        System.setProperty("nacos.remote.grpc.listen.ip", "127.0.0.1");
        // Nacos gives its database ten seconds to be made, which a busy machine does not keep. One that is there is only
        // opened.
        String database = "jdbc:derby:" + dir.resolve("data/derby-data") + ";create=true";
        DriverManager.getConnection(database, "nacos", "nacos").close();
        EnvUtil.setDeploymentType(DeploymentType.SERVER);
        // The two contexts, in the order in which Nacos's own bootstrap starts them.
        NacosStartUpManager.start(NacosStartUp.CORE_START_UP_PHASE);
        ConfigurableApplicationContext core = new SpringApplicationBuilder(NacosServerBasicApplication.class)
                .web(WebApplicationType.NONE)
                .bannerMode(Banner.Mode.OFF)
                .run();
        NacosStartUpManager.start(NacosStartUp.WEB_START_UP_PHASE);
        new SpringApplicationBuilder(NacosServerWebApplication.class)
                .parent(core)
                .bannerMode(Banner.Mode.OFF)
                .run();
    }
}
